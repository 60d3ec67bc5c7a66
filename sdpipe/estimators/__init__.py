"""Every way from C(t) to rho_sigma(E): the estimators, and intervals that need no prior."""
