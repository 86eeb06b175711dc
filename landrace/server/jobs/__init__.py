"""Work that outlives a call: files, batches of calls, tuning. All of it is kept in a folder and survives a restart."""
