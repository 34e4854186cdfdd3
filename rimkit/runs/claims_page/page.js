// Filter and unfold the claims. Without this script all of them are there, folded.
const form = document.getElementById("filter"), claims = [...document.querySelectorAll(".claim")];
const unfold = document.getElementById("unfold"), found = document.getElementById("found");

function filter() {
  const { verdict, chapter, model, text } = Object.fromEntries(new FormData(form));
  const words = text.toLowerCase(), narrowed = verdict || model;
  for (const claim of claims) {
    let lines = 0;
    for (const line of claim.querySelectorAll(".line")) {
      line.hidden = (verdict && line.dataset.verdict !== verdict) || (model && line.dataset.model !== model);
      lines += !line.hidden;
    }
    for (const group of claim.querySelectorAll(".effects tbody")) group.hidden = !group.querySelector(".line:not([hidden])");
    const other = (chapter && claim.dataset.chapter !== chapter) || !claim.textContent.toLowerCase().includes(words);
    claim.hidden = Boolean(other || (narrowed && !lines));
    if (narrowed && !claim.hidden) claim.open = true;
  }
  for (const family of document.querySelectorAll(".family")) {
    let next = family.nextElementSibling, shown = false;
    for (; next && next.matches(".claim"); next = next.nextElementSibling) shown ||= !next.hidden;
    family.hidden = !shown;
  }
  const left = claims.filter((claim) => !claim.hidden).length;
  found.textContent = `${left} of ${claims.length} claims`;
}

form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
unfold.addEventListener("click", () => {
  const open = unfold.textContent === "Unfold all";
  for (const claim of claims) claim.open = open;
  unfold.textContent = open ? "Fold all" : "Unfold all";
});
filter();
