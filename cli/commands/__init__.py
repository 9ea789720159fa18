"""The commands: one file each, called as the command."""
