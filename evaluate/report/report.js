"use strict";
// Shows the sample that a clip's slider names in each of its rows; without this, the first one stays.
for (const section of document.querySelectorAll("section[data-clip]")) {
  const slider = section.querySelector("input[type=range]");
  if (!slider) continue;
  const data = JSON.parse(section.querySelector("script[type='application/json']").textContent);
  const said = section.querySelector("output");
  const rows = [...section.querySelectorAll("tr.sample")].map((row) => [...row.querySelectorAll("img")]);
  const show = () => {
    const sample = Number(slider.value);
    rows.forEach((images, row) => images.forEach((image, step) => {
      image.src = data.pictures[row][sample][step];
      image.alt = `sample ${sample}, step ${step + 1}`;
    }));
    said.textContent = data.captions[sample];
    slider.setAttribute("aria-valuetext", data.captions[sample]);
  };
  slider.addEventListener("input", show);
  section.querySelector(".slider").hidden = false;
  show();
}
