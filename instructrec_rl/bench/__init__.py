"""Many runs (variants x seeds), resumable, here or on a cluster."""
