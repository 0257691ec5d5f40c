"""Reports for people: self-contained HTML that works offline, and PNG charts. Facts come in, nothing is measured."""
