//! RedisStore on real servers: what every store does, and what only Redis can do to one.

mod suite;
