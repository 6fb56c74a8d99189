"""What is wrong with the images and labels of a data set: findings, a report to look at, a mask that training honours.

scan.py looks at every sample once and keeps hashes and a few numbers of it; duplicates.py and outliers.py work on these
alone. mask.py, report.py and write.py are what comes out. Shards are only read.
"""
