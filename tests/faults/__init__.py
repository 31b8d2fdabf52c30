"""Faults on purpose: power that fails, disks that fill, files that are damaged or hostile. See docs/reliability.md."""
