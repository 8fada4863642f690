//! Images under the official names, for machines where no registry answers: Debian's packages with the conventions of the
//! official images, so that docker-compose.yml fits both. They carry a label, and are pulled over when a registry answers.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::docker::{Image, STAND_IN_LABEL, image};
use crate::images::{DEBIAN, NGINX, REDIS, RUST};
use crate::prerequisites::{self, is_root};
use crate::shell::{Patience, cargo, command, read, root, run, run_quietly, target_folder};

const RELEASE: &str = "bookworm";

/// Builds the stand-in for an official image. Docker's cache makes this quick when nothing has changed.
pub(crate) fn build(name: &str) -> Result<()> {
    match name {
        DEBIAN => debian(),
        REDIS => from_recipe(name, "redis"),
        NGINX => from_recipe(name, "nginx"),
        RUST => rust(),
        _ => bail!("there is no stand-in for {name}"),
    }
}

fn is_official(name: &str) -> bool {
    image(name) == Image::Official
}

fn debian() -> Result<()> {
    if image(DEBIAN) != Image::Missing {
        return Ok(());
    }
    if !is_root() {
        bail!("no image registry answers, and a stand-in for {DEBIAN} can be built by root only");
    }
    prerequisites::mmdebstrap()?;
    let script = format!(
        "set -o pipefail; mmdebstrap --variant=minbase {RELEASE} - \
         | docker import --change 'LABEL {STAND_IN_LABEL}=true' --change 'CMD [\"bash\"]' - {DEBIAN}"
    );
    run_quietly(&format!("Building a stand-in for {DEBIAN}"), command("bash", &["-c", &script]), Patience::minutes(10))
}

fn docker_build(name: &str, context: &str) -> Command {
    command("docker", &["build", "--label", &format!("{STAND_IN_LABEL}=true"), "--tag", name, context])
}

fn from_recipe(name: &str, recipe: &str) -> Result<()> {
    if is_official(name) {
        return Ok(());
    }
    let context = format!("xtask/stand-ins/{recipe}");
    run_quietly(&format!("Building a stand-in for {name}"), docker_build(name, &context), Patience::minutes(10))
}

/// The host's toolchain in a Debian with a linker. The host's certificates come along, or Cargo could not reach its
/// registry where the host itself only can by a certificate of its own.
fn rust() -> Result<()> {
    if image(RUST) != Image::Missing {
        return Ok(());
    }
    let toolchain = read(command("rustc", &["--print", "sysroot"]))?;
    let context = work_folder("rust")?;
    let recipe = root().join("xtask/stand-ins/rust/Dockerfile");
    fs::copy(&recipe, context.join("Dockerfile")).with_context(|| format!("cannot copy {}", recipe.display()))?;
    let certificates = "/etc/ssl/certs/ca-certificates.crt";
    fs::copy(certificates, context.join("ca-certificates.crt"))
        .with_context(|| format!("cannot copy {certificates}"))?;
    let context = context.to_string_lossy().into_owned();
    let archive = format!("{context}/toolchain.tar");
    let pack =
        ["--create", "--file", &archive, "--directory", &toolchain, "--exclude=./share", "--exclude=./lib/rustlib/src"];
    run_quietly(
        "Packing the host's Rust toolchain",
        command("tar", &[&pack[..], &["."]].concat()),
        Patience::minutes(10),
    )?;
    run_quietly(&format!("Building a stand-in for {RUST}"), docker_build(RUST, &context), Patience::minutes(20))?;
    fs::remove_file(&archive).with_context(|| format!("cannot remove {archive}"))
}

/// Whether a binary that is compiled here runs in the images: it is linked with the C library of the system that compiles.
pub(crate) fn host_is_bookworm() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| text.contains(&format!("VERSION_CODENAME={RELEASE}")))
}

/// The image of the nodes, with a binary that was compiled here instead of in a container, where everything would be
/// downloaded and compiled a second time. Its last stage is that of demo-app/Dockerfile.
pub(crate) fn build_nodes(name: &str) -> Result<()> {
    println!("Compiling the nodes here, since rust in a container would be this machine's toolchain all the same");
    run(cargo(&["build", "--release", "--locked", "--package", "demo-app"]))?;

    let dockerfile =
        fs::read_to_string(root().join("demo-app/Dockerfile")).context("cannot read demo-app/Dockerfile")?;
    let context = work_folder("nodes")?;
    fs::write(context.join("Dockerfile"), last_stage(&dockerfile)?)?;
    let binary = target_folder()?.join("release/demo-app");
    fs::copy(&binary, context.join("demo-app")).with_context(|| format!("cannot copy {}", binary.display()))?;
    run_quietly(&format!("Building {name}"), docker_build(name, &context.to_string_lossy()), Patience::minutes(5))
}

/// The last stage of the Dockerfile, taking the binary from the build context instead of from the stage that compiles.
fn last_stage(dockerfile: &str) -> Result<String> {
    let copied = "COPY --from=build /src/target/release/demo-app ";
    let start = dockerfile.rfind("\nFROM ").context("demo-app/Dockerfile has one stage only")?;
    let stage = dockerfile[start..].trim_start();
    if !stage.starts_with(&format!("FROM {DEBIAN}\n"))
        || stage.matches("--from=").count() != 1
        || !stage.contains(copied)
    {
        bail!("the last stage of demo-app/Dockerfile is not `FROM {DEBIAN}` and one `{copied}…`");
    }
    Ok(stage.replace(copied, "COPY demo-app "))
}

fn work_folder(name: &str) -> Result<PathBuf> {
    let folder = target_folder()?.join("stand-ins").join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_run_in_what_the_dockerfile_says() {
        let dockerfile = fs::read_to_string(root().join("demo-app/Dockerfile")).unwrap();
        let stage = last_stage(&dockerfile).unwrap();
        assert!(stage.starts_with(&format!("FROM {DEBIAN}\nCOPY demo-app /usr/local/bin/demo-app\n")), "{stage}");
        assert!(stage.contains("\nUSER ") && !stage.contains("cargo"), "{stage}");
    }

    #[test]
    fn a_last_stage_of_another_shape_is_refused() {
        last_stage("FROM debian:bookworm-slim\n").unwrap_err();
        last_stage("FROM x AS build\n\nFROM scratch\nCOPY --from=build /src/target/release/demo-app /\n").unwrap_err();
        last_stage("FROM x AS build\n\nFROM debian:bookworm-slim\nCOPY --from=other /a /b\n").unwrap_err();
    }
}
