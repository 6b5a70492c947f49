"""The paper's comparisons on the embedded generator, by one command: `make benchmark`.

`plan.py` lists the rows, `run.py` runs those that are not there yet. `rows.py` is what a row does: it takes models from
`world.py`, makes pictures by `techniques.py`, judges them by `measures.py`. A row is a JSON file of its own in the
results' folder. `results.py` reads them, `page.py` writes the page: `tables.py`, `plots.py`, and `bars.py`, what the
project promised.
"""
