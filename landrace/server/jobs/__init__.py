"""Work that outlives a call: files, batches of calls, tuning. All of it is kept in one folder and survives a restart."""
