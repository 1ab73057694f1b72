"""`python -m lorecast.jobs …` is `lorecast …`, also where only the package is at hand."""

from lorecast.jobs.cli import main

main()
