"""ANOVA tables, effects and curves of a factorial study, from its JSON alone.

    python studies/analyse.py RESULTS --out DIR [--linear]

RESULTS is a folder that `sluice study run` made. DIR gets, for each response, its ANOVA table, main
effects and pairs as CSV and LaTeX, and figures as PNG and SVG; points.csv has means and deviations.
Effects are of the logarithm of a response, that is in factors, unless --linear.
"""

import argparse
from pathlib import Path

import figures
import numpy
import pandas
import statsmodels.api
import statsmodels.formula.api
from results import Study


def kept_terms(study):
    """Factors and pairs whose effects the runs can show, with the name each goes by.

    A fraction cannot tell some of them apart: the first of such a group stands for all, and its name
    says so. Pairs are left out when each point was run once and they would leave no degrees of
    freedom for the residual.
    """
    factors = [f for f in study.factors if study.runs[f].nunique() > 1]
    terms = [(f,) for f in factors]
    pairs = [(a, b) for i, a in enumerate(factors) for b in factors[i + 1:]]
    needed = 1 + sum(study.runs[f].nunique() - 1 for f in factors)
    needed += sum((study.runs[a].nunique() - 1) * (study.runs[b].nunique() - 1) for a, b in pairs)
    if needed < len(study.runs):
        terms += pairs
    names = {term: " x ".join(term) for term in terms}
    for alias in study.design["aliases"]:
        group = [tuple(word.split("*")) for word in alias.split(" = ")]
        group = [term for term in group if term in names]
        if len(group) < 2:
            continue
        names[group[0]] = " = ".join(names[term] for term in group)
        for term in group[1:]:
            del names[term]
    return names


def anova(study, response, log):
    """The ANOVA table (type II) of one response, with the share of the sum of squares (eta2)."""
    names = kept_terms(study)
    columns = {factor: f"f{i}" for i, factor in enumerate(study.factors)}
    data = study.runs.rename(columns=columns)
    values = study.runs[response].to_numpy()
    data = data.assign(y=numpy.log(values) if log else values)
    words = {term: ":".join(f"C({columns[f]})" for f in term) for term in names}
    fit = statsmodels.formula.api.ols("y ~ " + " + ".join(words.values()), data=data).fit()
    table = statsmodels.api.stats.anova_lm(fit, typ=2)
    labels = {words[term]: names[term] for term in names} | {"Residual": "residual"}
    table.index = [labels[index] for index in table.index]
    table["eta2"] = table["sum_sq"] / table["sum_sq"].sum()
    table.index.name = "term"
    return table[["df", "sum_sq", "eta2", "F", "PR(>F)"]], fit


def main_effects(study, response):
    """Mean, standard error and runs of a response at each level of each factor."""
    rows = []
    for factor in study.factors:
        for level in study.levels(factor):
            values = study.runs.loc[study.runs[factor] == level, response]
            rows.append({"factor": factor, "level": level, "mean": values.mean(),
                         "standard_error": values.sem(), "runs": len(values)})
    return pandas.DataFrame(rows)


def draw_main_effects(study, response, folder):
    effects = main_effects(study, response)
    figure, axes = figures.pyplot.subplots(
        1, len(study.factors), sharey=True, squeeze=False, figsize=(2.0 * len(study.factors) + 1, 2.8))
    for axis, factor in zip(axes[0], study.factors, strict=True):
        rows = effects[effects["factor"] == factor]
        axis.errorbar([str(level) for level in rows["level"]], rows["mean"],
                      yerr=rows["standard_error"].fillna(0), capsize=3, **figures.style(0))
        axis.axhline(study.runs[response].mean(), color="0.5", linewidth=0.8, linestyle="--")
        axis.set_xlabel(factor)
        axis.margins(x=0.2)
        axis.tick_params(axis="x", labelrotation=30 if rows["level"].astype(str).str.len().max() > 6 else 0)
    axes[0][0].set_ylabel(response)
    figure.suptitle(f"{study.name}: main effects", fontsize=10)
    return figures.save(figure, folder, f"main_effects_{figures.file_word(response)}")


def draw_interactions(study, response, folder):
    """One panel for each pair of factors: lines that are not parallel are an interaction."""
    count = len(study.factors)
    figure, axes = figures.pyplot.subplots(
        count, count, squeeze=False, sharey=True, figsize=(2.1 * count, 1.8 * count))
    for row, of in enumerate(study.factors):
        for column, by in enumerate(study.factors):
            axis = axes[row][column]
            if row == column:
                axis.text(0.5, 0.5, of, ha="center", va="center", transform=axis.transAxes)
                axis.set_xticks([])
                axis.grid(False)
                continue
            for index, level in enumerate(study.levels(of)):
                chosen = study.runs[study.runs[of] == level]
                means = chosen.groupby(by)[response].mean()
                levels = [value for value in study.levels(by) if value in means.index]
                axis.plot([str(v) for v in levels], [means[v] for v in levels], label=str(level),
                          markersize=4, linewidth=1, **figures.style(index))
            if column == (count - 1 if row != count - 1 else count - 2):
                axis.legend(title=of, fontsize=6, title_fontsize=6)
            axis.margins(x=0.2)
            axis.tick_params(labelsize=7)
    figure.suptitle(f"{study.name}: {response} by pairs of factors", fontsize=10)
    figure.tight_layout()
    return figures.save(figure, folder, f"interactions_{figures.file_word(response)}")


def draw_curves(study, response, folder):
    """The response over the numeric factor with most levels, a line for each setting of the next."""
    numeric = [f for f in study.factors if all(isinstance(v, (int, float)) for v in study.levels(f))]
    if not numeric:
        return []
    over = max(numeric, key=lambda factor: len(study.levels(factor)))
    others = [f for f in study.factors if f != over]
    by = max(others, key=lambda factor: len(study.levels(factor)), default=None)
    figure, axis = figures.pyplot.subplots(figsize=(4.2, 3.0))
    groups = [(None, study.runs)] if by is None else [
        (level, study.runs[study.runs[by] == level]) for level in study.levels(by)]
    for index, (level, rows) in enumerate(groups):
        grouped = rows.groupby(over)[response]
        mean, error = grouped.mean(), grouped.sem().fillna(0)
        axis.errorbar(mean.index, mean, yerr=error, capsize=2, markersize=4,
                      label=None if by is None else f"{by} {level}", **figures.style(index))
    levels = study.levels(over)
    if min(levels) > 0 and max(levels) / min(levels) >= 8:
        axis.set_xscale("log", base=2)
    axis.set_xticks(levels, [str(v) for v in levels])
    axis.set_xlabel(over)
    axis.set_ylabel(response)
    axis.set_ylim(bottom=0)
    if by is not None:
        axis.legend(fontsize=7)
    axis.set_title(study.name, fontsize=10)
    return figures.save(figure, folder, f"curve_{figures.file_word(response)}")


def write_table(table, folder, name, caption):
    table.to_csv(folder / f"{name}.csv", float_format="%.6g")
    latex = table.reset_index() if table.index.name else table
    text = latex.to_latex(index=False, escape=True, caption=caption, label=f"tab:{name}",
                          float_format=lambda v: f"{v:.4g}", na_rep="")
    (folder / f"{name}.tex").write_text(text)


def analyse(study, folder, log=True):
    """Writes every table and figure of a study; returns the ANOVA tables by response."""
    folder.mkdir(parents=True, exist_ok=True)
    means = study.runs.groupby(study.factors)[study.responses].agg(["mean", "std", "count"])
    means.columns = [f"{response}_{what}" for response, what in means.columns]
    means.to_csv(folder / "points.csv", float_format="%.6g")
    tables = {}
    for response in study.responses:
        word = figures.file_word(response)
        logarithm = log and bool((study.runs[response] > 0).all())
        table, fit = anova(study, response, logarithm)
        scale = "logarithm of " if logarithm else ""
        write_table(table, folder, f"anova_{word}",
                    f"{study.name}: ANOVA of {scale}{response}, R2 {fit.rsquared:.3f}")
        write_table(main_effects(study, response), folder, f"effects_{word}",
                    f"{study.name}: mean {response} by level")
        draw_main_effects(study, response, folder)
        if len(study.factors) > 1:
            draw_interactions(study, response, folder)
        draw_curves(study, response, folder)
        tables[response] = table
    return tables


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--linear", action="store_true", help="effects of the response itself")
    arguments = parser.parse_args()
    study = Study(arguments.results)
    print(f"{study.name}: {len(study.runs)} runs on {study.machine['cpu']}, {len(study.failed)} failed")
    for response, table in analyse(study, arguments.out, not arguments.linear).items():
        print(f"\n{response}\n{table.to_string(float_format=lambda v: f'{v:.4g}', na_rep='')}")


if __name__ == "__main__":
    main()
