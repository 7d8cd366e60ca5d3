"""The report of an export as a page with pictures, and several reports side by side."""
