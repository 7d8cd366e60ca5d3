"""The inputs that graphs are run on, in addition to the stress set: texts and workloads."""
