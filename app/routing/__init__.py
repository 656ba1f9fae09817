"""The routing page: usage of experts, and the panel of one."""
