#pragma once
// How far the figures of a cell may be relied on: what failed since, what is of another checkpoint, and whose accuracy
// stands in for one that an engine's own benchmark does not measure.
#include <vector>

#include "report/study.h"

namespace qg {

// From all attempts at the cell: which failures nobody mended, and which figures a newer failure overtook.
void note_failures(Cell& cell, const std::vector<const Attempt*>& attempts);

// An accuracy is one measurement: rows of an older one, of another checkpoint, that the newer one lacks are taken out.
void keep_one_accuracy(Cell& cell);

// A cell of another engine without accuracy takes the native engine's of the same case and checkpoint, where both store
// the cache alike.
void borrow_accuracy(std::vector<Cell>& cells);

}  // namespace qg
