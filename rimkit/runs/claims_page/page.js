// Filter and unfold the claims. Without this script all of them are there, folded.
const form = document.getElementById("filter"), claims = [...document.querySelectorAll(".claim")];
const unfold = document.getElementById("unfold"), found = document.getElementById("found");
const opened = new Set(); // by the filter, which folds them again

function filter() {
  const { verdict, chapter, model, text, own } = Object.fromEntries(new FormData(form));
  const words = text.trim().toLowerCase(), narrowed = Boolean(verdict || model);
  const fits = ({ dataset }) => (!verdict || dataset.verdict === verdict) && (!model || dataset.model === model);
  for (const claim of claims) {
    for (const one of claim.querySelectorAll("[data-verdict]")) one.hidden = !fits(one);
    for (const group of claim.querySelectorAll(".effects tbody")) group.hidden = !group.querySelector(".line:not([hidden])");
    for (const tally of claim.querySelectorAll(".tally")) count(tally);
    const elsewhere = own && claim.classList.contains("unmeasured");
    const other = elsewhere || (chapter && claim.dataset.chapter !== chapter) || !claim.textContent.toLowerCase().includes(words);
    claim.hidden = Boolean(other || !claim.querySelector(".line:not([hidden])"));
    const open = narrowed && !claim.hidden;
    if (open && !claim.open) opened.add(claim);
    if (open) claim.open = true;
    else if (opened.delete(claim)) claim.open = false;
  }
  for (const family of document.querySelectorAll(".family")) {
    let next = family.nextElementSibling, shown = false;
    const known = next && next.matches(".known") ? next : null; // what is known of the whole family
    if (known) next = known.nextElementSibling;
    for (; next && next.matches(".claim"); next = next.nextElementSibling) shown ||= !next.hidden;
    family.hidden = !shown;
    if (known) known.hidden = !shown;
  }
  const left = claims.filter((claim) => !claim.hidden).length;
  found.textContent = left ? `${left} of ${claims.length} claims` : "No claim matches: change a field, or clear all.";
}

// The filter stands in the address, so that a link or a reload keeps it.
function keep(hash = "") {
  const asked = new URLSearchParams([...new FormData(form)].filter(([, value]) => value)).toString();
  try {
    history.replaceState(null, "", (asked ? `?${asked}` : location.pathname) + hash);
  } catch {} // not everywhere allowed, and not needed
}

function read() {
  for (const [name, value] of new URLSearchParams(location.search)) {
    const field = form.elements[name];
    if (field?.type === "checkbox") field.checked = value === field.value;
    else if (field && (!field.options || [...field.options].some((one) => one.value === value))) field.value = value;
  }
}

// The words beside a strip of marks: of those that are left, how many have each verdict.
function count(tally) {
  const all = tally.querySelectorAll("[data-verdict]"), left = [...all].filter((mark) => !mark.hidden);
  const said = tally.querySelector(".said"), counts = {};
  tally.hidden = !left.length;
  if (!said) return;
  said.dataset.all ??= said.textContent;
  for (const { dataset } of left) {
    const of = (counts[dataset.control ?? ""] ??= {}); // controls are counted apart
    of[dataset.verdict] = (of[dataset.verdict] ?? 0) + 1;
  }
  const words = (of) => Object.entries(of).map(([verdict, n]) => `${n} ${verdict}`).join(", ");
  const some = Object.entries(counts).map(([who, of]) => who + words(of)).join("; ");
  said.textContent = left.length === all.length ? said.dataset.all : some;
}

// A link to a claim clears a filter that hides it.
function reach() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (target.closest("[hidden]")) { form.reset(); filter(); }
  const fold = target.closest("details");
  if (fold) fold.open = true;
  (fold || target).scrollIntoView();
}

form.hidden = false;
form.addEventListener("input", () => { filter(); keep(); });
form.addEventListener("reset", () => setTimeout(() => { filter(); keep(location.hash); }));
form.addEventListener("submit", (event) => event.preventDefault());
unfold.addEventListener("click", () => {
  const open = unfold.textContent === "Unfold all";
  for (const claim of claims) claim.open = open;
  opened.clear();
  unfold.textContent = open ? "Fold all" : "Unfold all";
});
addEventListener("hashchange", reach);
read();
filter();
if (location.hash) reach();
if ("book" in document.documentElement.dataset) dress();

// A page of the book is light or dark as was chosen there.
function dress() {
  let chosen;
  try {
    chosen = localStorage.getItem("mode");
  } catch {} // without storage: as the system is
  if (chosen !== "light" && chosen !== "dark") return;
  for (const { media } of document.styleSheets[0].cssRules)
    if (media?.mediaText.includes("prefers-color-scheme")) media.mediaText = chosen === "dark" ? "screen" : "not all";
  document.documentElement.style.colorScheme = chosen;
}
