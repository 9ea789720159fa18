// To the search a word behind dashes is one to leave out, but whoever types --max-drop looks for it.
for (const kind of ["input", "keyup"]) {
  addEventListener(kind, ({ target }) => {
    if (target.matches?.("[data-md-component=search-query]") && /(^|\s)-/.test(target.value)) {
      target.value = target.value.replace(/(^|\s)-+/g, "$1");
    }
  }, true);
}
