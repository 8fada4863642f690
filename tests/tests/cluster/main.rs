//! What a user sees of the cluster, and what RedisStore does to a real Redis.
