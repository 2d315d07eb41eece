"""The example package stands for another distribution: only the processes that these tests start may know it."""

collect_ignore = ["example"]
