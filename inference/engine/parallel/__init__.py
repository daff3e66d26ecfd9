"""One shard computed by several processes of a host, each with a slice of every layer."""
