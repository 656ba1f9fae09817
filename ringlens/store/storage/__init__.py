"""Where the files of a store lie: on a disk, on a shared disk, or in a bucket."""
