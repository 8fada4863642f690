//! What a user sees of the cluster, and what RedisStore does to a real Redis.

mod store; // RedisStore on servers of its own
