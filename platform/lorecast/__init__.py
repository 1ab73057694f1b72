"""lorecast: recommenders made better by what large language models know.

This package is the pure core: what is computed, free of any cluster. `lorecast.jobs` runs it in
batch on Ray, `lorecast.serve` online.
"""

__version__ = "0.1.0"
