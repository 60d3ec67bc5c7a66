// How results of a search are ordered: pages that people wrote come before those made from the code.
// The numbers are those of Sphinx; sphinx-build writes this file into searchtools.js.
var Scorer = {
  score: ([docname, , , , score]) => (docname.startsWith("api/") ? score - 100 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
