"""The glue between pipeline, render, store and report: one file per command, called by the command line."""
