"""Attribution methods, one file each: a file with a registered function is all it takes to add one."""
