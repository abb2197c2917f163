"""What a person reads: graphs before and after each pass, schedules as text, reports."""
