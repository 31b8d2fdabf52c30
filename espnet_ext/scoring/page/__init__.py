"""One self-contained HTML page of scores, plots, sound and facts."""
