"""What lies in a run directory: stores, receipts, layout, lock."""
