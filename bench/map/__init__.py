"""The map: every operation on a CPU beside eager PyTorch, over sizes, degrees, losses, bases, layouts and series.

    python -m bench.map            a quick map in some minutes
    python -m bench.map --full     all points, with one and two threads, quiet and beside busy neighbours
    python -m bench.map --draw     the picture

A ratio is the time of eager PyTorch divided by ours: above 1, polyfit is faster.

- points.py: which points there are, and what ratio is wanted at each.
- forms.py: what is timed at a point: ours, and what a good user would write instead.
- runner.py: time and memory of both, and the lines of the results.
- pages.py: the picture and the tables.
"""
