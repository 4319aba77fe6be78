"""Neural architecture search with elastic supernets and early exits.

The map, in the order in which a module may import another (docs/ARCHITECTURE.md):

errors, files                       a refusal in one line; files all or nothing
science, cells, machine             the code behind a number; a unit of work; seeds and progress
blocks, plans, genotypes, subnet    branches, networks as data, subnets as integers and as values
arch                                `Space`, `Arch`
cost, elastic                       counts from tables; views of shared weights
modules, supernet                   blocks in torch; `Network`, `Supernet`
backbone_table, imagenet, backbones torchvision's networks with exits
early, precision, exits             when to answer; mixed precision; weights, losses and votes
distill, samplers, curricula        what a supernet learns from, which subnets, in which phases
distributed, train                  ranks; `fit`, schedules, optimisers
latency, latency_table, evaluate    milliseconds; recalibrate and score
data                                data sets, stores, batches
search                              objectives, archive, strategies, predictors (no torch)
studies                             what a cell is made of, and its run
results                             frames, statistics, claims and verdicts (no torch)
report                              tables, figures, the page
export, browser                     networks as files; the Pareto browser
run                                 parameters, jobs, papermill, the command line
"""
