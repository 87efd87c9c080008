#!/usr/bin/busybox sh
# Run by acpid: asks the first process to stop the service and power off.
kill -USR2 1
