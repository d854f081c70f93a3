"""One module per revision of workflow.sqlite."""
