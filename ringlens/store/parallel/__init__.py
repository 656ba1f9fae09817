"""Where the files of a commit are encoded: in threads of this process, or in other processes."""
