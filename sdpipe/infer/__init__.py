"""From networks to numbers with errors: prediction, budget, calibration, coverage, trust, integrals."""
