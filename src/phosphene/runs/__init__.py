"""The glue between sources, tasks, store and report: one file per command, called by the command line."""
