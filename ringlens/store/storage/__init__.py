"""Where a store keeps its files: a local disk, a shared disk, or a bucket."""
