// How results of a search are ordered: pages that people wrote and functions of sdpipe itself come before what is made
// from the modules. The numbers are those of Sphinx; sphinx-build writes this file into language_data.js.
var Scorer = {
  score: ([docname, , , , score]) => (/^api\/sdpipe(\.\w+){2,}$/.test(docname) ? score - 100 : score),
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
