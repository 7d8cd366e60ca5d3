"""The forms that a graph may be written in: candidates, their measurement, and the choice among them."""
