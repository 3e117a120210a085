"""The command groups of `cellfeat`; each imports what it needs only when it runs."""
