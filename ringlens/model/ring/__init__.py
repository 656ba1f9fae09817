"""The Ring family (`bailing_moe_v2`): its configuration, modules, checkpoints and sharding."""
