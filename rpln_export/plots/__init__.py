"""Plots in SVG: the project's style, and the colours that suit a light and a dark page."""
