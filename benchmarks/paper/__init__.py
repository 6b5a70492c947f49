"""The paper's comparisons on the embedded generator with one command: `make benchmark`.

`plan.py` lists the rows. `run.py` runs the rows that do not exist yet. `rows.py` computes a row: it gets models from
`world.py`, makes images with `techniques.py`, and judges them with `measures.py`. A row is a JSON file in the results'
folder. `results.py` reads them, and `page.py` writes the page from `tables.py`, `plots.py` and `bars.py` (the project's
targets).
"""
