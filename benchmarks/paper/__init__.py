"""The paper's comparisons on the embedded generator, by one command: `make benchmark`.

`plan.py` lists the rows, `run.py` runs those that are not there yet, `page.py` writes what they found. A row is a JSON
file of its own in the results' folder.
"""
