//! The KVM machine, instances, and the `kami` command.
