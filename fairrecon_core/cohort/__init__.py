"""Who is in the data: images and one row for each, converted, split by patient, kept in a folder."""
