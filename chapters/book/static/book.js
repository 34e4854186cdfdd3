// Boxes that are wider than their place: a word, a fade at the side that goes on, and a stop for the keyboard.
const BOXES = ".highlight pre, .cell_output .output, .cell_output figure, figure.align-default > a, table.table, .formula";

function mark(box) {
  if (box.scrollWidth > box.clientWidth + 1) box.classList.add("dense"); // less room in its cells, if it is a table
  const wide = box.scrollWidth > box.clientWidth + 1;
  box.classList.toggle("wide", wide);
  box.classList.toggle("more", wide && box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  if (wide) box.tabIndex = 0;
  else if (!box.matches("a")) box.removeAttribute("tabindex");
}

function markAll() {
  document.querySelectorAll(`.bd-article :is(${BOXES})`).forEach(mark);
}

for (const formula of document.querySelectorAll('math[display="block"]')) {
  const box = Object.assign(document.createElement("div"), { className: "formula" });
  formula.replaceWith(box);
  box.append(formula);
}
for (const fold of document.querySelectorAll("summary[aria-label]")) fold.removeAttribute("aria-label"); // it has words
addEventListener("load", markAll);
addEventListener("resize", markAll);
document.addEventListener("toggle", markAll, true);
document.addEventListener("scroll", ({ target }) => target.classList?.contains("wide") && mark(target), true);

// Verdicts stand on the full claims page.
addEventListener("load", () => {
  if (document.querySelector("ol.answers") && /^#[CQ]\d/.test(location.hash)) location.replace("claims-page.html" + location.hash);
});

// Snippets of the search: from a script with the articles, so that they work from a disk, and of what is read alone.
if (document.getElementById("search-results")) {
  const unread = ".headerlink, .cell_input, .solution, figcaption details, script, style";
  const script = Object.assign(document.createElement("script"), { src: "_static/articles.js" });
  const loaded = new Promise((done) => { script.onload = done; });
  const nameOf = (address) => decodeURIComponent(new URL(address, location).pathname.split("/").pop()).replace(/\.html$/, "");
  window.fetch = async (address) => {
    await loaded;
    return new Response(ARTICLES[nameOf(address)]?.join() ?? "");
  };
  Search.htmlToText = (html) => {
    const article = new DOMParser().parseFromString(html, "text/html").body;
    for (const part of article.querySelectorAll(unread)) part.remove();
    for (const block of article.querySelectorAll("p, li, h1, h2, h3, td, th, pre, summary")) block.append(" ");
    return article.textContent.replace(/\s+/g, " ").trim();
  };
  // Best first: pages whose title has all words, then those that say them most often, phrases before words.
  const [find, ask] = [Search._performSearch, Search.query];
  Search._performSearch = (phrase, terms, without, words, ...more) => {
    const count = (text, part) => text.split(part).length - 1;
    const worth = ([page, title]) => {
      const text = Search.htmlToText(ARTICLES[page]?.join() ?? "").toLowerCase();
      const named = [...words].every((word) => title.toLowerCase().includes(word));
      return 1000 * named + 5 * count(text, phrase.toLowerCase()) + Math.min(...[...words].map((word) => count(text, word)));
    };
    const found = find(phrase, terms, without, words, ...more).map((one) => [worth(one), one]);
    return found.sort(([a], [b]) => a - b).map(([, one]) => one);
  };
  Search.query = (words) => loaded.then(() => ask(words));
  document.head.append(script);
}
