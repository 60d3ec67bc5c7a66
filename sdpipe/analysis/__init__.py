"""From smeared densities to physical numbers: what a paper makes of one run, or of several."""
