// Chinese by pairs of characters, other text by words: what conf.py's Bigrams has put into the index.
var splitQuery = (query) =>
  (query.match(/[\u3400-\u9fff]+|[^\P{L}\u3400-\u9fff]+(?:[^\P{L}\u3400-\u9fff]|[\p{N}_])*|[\p{N}_]+/gu) ?? []).flatMap((part) =>
    /[\u3400-\u9fff]/.test(part) && part.length > 1
      ? Array.from({ length: part.length - 1 }, (_, i) => part.slice(i, i + 2))
      : [part]);
