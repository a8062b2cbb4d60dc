"""The `chopgrad` command."""
