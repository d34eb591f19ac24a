"""The report of runs: one HTML file with what they learnt, how well, and how."""
