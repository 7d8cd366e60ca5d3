"""The diagnosis of this machine: what is installed, what is missing, and what that costs."""
